"""The usage source in an engine over a lake: the engine adds up, and the sums of users are what is frozen."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLateError
from typing import TypeVar

from spell_billing.settings.lakes import LakeUrl
from spell_billing.usage.adapter import SqlUsage
from spell_billing.usage.aggregate import sums_of_user
from spell_billing.usage.contract import ONE_USER_SECONDS, SourceRules, UserEvidence
from spell_billing.usage.frozen import FrozenUsage
from spell_billing.usage.lake_engines import open_engine
from spell_billing.usage.lake_tables import LakeTables
from spell_billing.usage.tables import took_too_long
from spell_billing.usage.usage_tables import UsageTables

T = TypeVar("T")


class LakeUsage(SqlUsage):
    """Reads usage and accounts through Ibis; implements `UsageSource`."""

    _url: LakeUrl

    def __init__(self, url: LakeUrl, rules: SourceRules) -> None:
        # The names of columns have no case here.
        super().__init__(url, rules.in_lower_case())

    def _read(self, act: Callable[[UsageTables], T]) -> T:
        with open_engine(self._url) as engine:
            return act(LakeTables(self._url, self._rules, engine))

    def _read_of_user(self, user_id: str, act: Callable[[UsageTables], T]) -> T | None:
        if "\0" in user_id:
            return None
        with open_engine(self._url) as engine:
            pool = ThreadPoolExecutor(1, thread_name_prefix="one-user")
            working = pool.submit(act, LakeTables(self._url, self._rules, engine))
            try:
                return working.result(ONE_USER_SECONDS)
            except TooLateError:
                pool.shutdown(wait=engine.cancel())
                raise took_too_long(self._url) from None
            finally:
                pool.shutdown(wait=False)

    def evidence(self, frozen: FrozenUsage, user_id: str) -> UserEvidence:
        """Ask the engine for a user's rows of a summed month; see `RowKeeper.evidence`."""
        with open_engine(self._url) as engine:
            tables = LakeTables(self._url, self._rules, engine)
            days = tuple(tables.days(user_id, frozen.month))
            made_by = frozen.manifest.backend, frozen.manifest.cost_scale
            if made_by != (self._url.backend, tables.scale):
                return UserEvidence(days, None)
            now = tables.user_sums(user_id, frozen.month, frozen.manifest.detail)
        return UserEvidence(days, now == sums_of_user(frozen, user_id))
