"""Runs that a person launches through Dagster's GraphQL carry the person's name."""

import json
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    VariableNode,
)

from spell_billing.orchestration.assets.common import ACTOR_TAG
from spell_billing.web.errors import ApiError
from spell_billing.web.facts import Facts

LAUNCHING = {
    "launchRun": ("executionMetadata", "tags"),
    "launchPipelineExecution": ("executionMetadata", "tags"),
    "launchMultipleRuns": ("executionMetadata", "tags"),
    "launchRunReexecution": ("extraTags",),
    "launchPipelineReexecution": ("extraTags",),
    "launchPartitionBackfill": ("tags",),
    "reexecutePartitionBackfill": (),
}
"""Where the tags of new runs stand among the parameters of the mutations that launch them.

A backfill that is executed again takes all tags from the first one, the name too: it is refused.
"""
_WHOLE_PARAMETERS = "executionParams"
"""Of a re-execution: as those of a launch."""


def graphql_error(status_code: int, code: str, message: str, remedy: str) -> ApiError:
    """Return an error that also holds the message where Dagster's pages look for one to show."""
    return ApiError(status_code, code, message, remedy, data=None, errors=[{"message": message}])


def mutations_of(document: DocumentNode) -> list[SelectionNode]:
    """Return what a document's mutations select."""
    return [
        selection
        for definition in document.definitions
        if isinstance(definition, OperationDefinitionNode) and definition.operation is OperationType.MUTATION
        for selection in definition.selection_set.selections
    ]


def with_name(document: DocumentNode, content: dict[str, Any], facts: Facts) -> bytes:
    """Put the name of who asks into the tags of the runs that a document launches.

    Parameters in a variable are the way of Dagster's pages and of `trigger`. Whatever else could launch a run
    without the name is refused: parameters within the document, or a fragment.

    Raises:
        ApiError: when they cannot carry it.
    """
    variables = content.get("variables")
    for selection in mutations_of(document):
        if isinstance(selection, FieldNode) and selection.name.value not in LAUNCHING:
            continue
        if isinstance(selection, FieldNode) and not LAUNCHING[selection.name.value]:
            message = "A backfill that is executed again would carry another person's name."
            remedy = "Launch a new backfill of the months that are left."
            raise graphql_error(403, "not_by_name", message, remedy)
        if not isinstance(selection, FieldNode) or not isinstance(variables, dict):
            raise _not_in_variables()
        launched = []
        for argument in selection.arguments:
            if not isinstance(argument.value, VariableNode):
                raise _not_in_variables()
            given = variables.get(argument.value.name.value)
            whole = argument.name.value == _WHOLE_PARAMETERS
            place = LAUNCHING["launchRun"] if whole else LAUNCHING[selection.name.value]
            launched += [(each, place) for each in (given if isinstance(given, list) else [given]) if each]
        # One that is not given could have a default in the document.
        if not launched or not all(isinstance(each, dict) for each, _ in launched):
            raise _not_in_variables()
        try:
            for each, place in launched:
                _tag(each, place, facts.actor)
        except (AttributeError, TypeError, ValueError):
            # Not parameters as Dagster has them.
            raise _not_in_variables() from None
    return json.dumps(content).encode()


def _tag(parameters: dict[str, Any], place: tuple[str, ...], actor: str) -> None:
    *above, last = place
    for name in above:
        within = dict(parameters.get(name) or {})
        parameters[name] = within
        parameters = within
    others = [each for each in parameters.get(last) or [] if each.get("key") != ACTOR_TAG]
    parameters[last] = [*others, {"key": ACTOR_TAG, "value": actor}]


def _not_in_variables() -> ApiError:
    message = "A run is launched by name with its parameters in a variable, and without fragments."
    return graphql_error(400, "not_in_variables", message, "Send them in `variables`.")
