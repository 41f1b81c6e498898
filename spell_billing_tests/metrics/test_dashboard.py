"""The Grafana dashboard asks for metrics and labels that there are."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from spell_billing.ledger.ledger import Ledger
from spell_billing.reporting.metrics import metrics_text
from spell_billing_tests.metrics.reading import families

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"


def test_every_expression_of_the_dashboard_names_metrics_and_labels_that_there_are(
    full: Callable[[], Ledger],
) -> None:
    samples = [each for family in families(metrics_text(full)).values() for each in family.samples]
    # A ledger without grants tells none.
    labels = {"spell_billing_prepaid_cents": {"currency", "kind"}}
    labels |= {each.name: set(each.labels) for each in samples}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]

    assert len(asked) >= len(panels) > 10
    for expression in asked:
        names = re.findall(r"spell_billing_\w+", expression)
        assert names, expression
        for name in names:
            assert name in labels, expression
        wanted = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"(\w+)=~?\"", expression)
        for label in {each.strip() for group in wanted for each in group.split(",")}:
            assert label in labels[names[0]], expression
