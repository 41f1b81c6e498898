"""Through months of late rows, moves, voids and settlements, each user is charged as if all came on time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from spell_billing_tests.proof.small_platform import SmallPlatform
from spell_billing_tests.proof.years import ACTIONS, Years

PLANS = {"paul": 500, "anna": 0, "old": 0, "new": 0, "late": 300}
"""Users, and what their plan includes. One has an account only later, two become one."""

USERS = st.sampled_from(sorted(PLANS))
BACK = st.integers(0, 2)
ROWS = st.tuples(st.just("row"), USERS, BACK, st.integers(-300, 900))
EVENTS = st.one_of(
    ROWS,
    ROWS,
    st.tuples(st.just("lose"), USERS, BACK),
    st.tuples(st.just("act"), USERS, BACK, st.sampled_from(sorted(ACTIONS))),
    st.tuples(st.just("again"), BACK),
    st.tuples(st.just("account")),
    st.tuples(st.just("move")),
    st.tuples(st.just("currency"), USERS),
)
LIVES = st.lists(st.lists(EVENTS, min_size=1, max_size=5), min_size=2, max_size=3)


def happen(years: Years, event: tuple[object, ...]) -> None:
    match event:
        case ("row", str(user), int(back), int(cents)):
            years.platform.calls(years.ago(back), (user, cents))
        case ("lose", str(user), int(back)):
            years.lose(user, years.ago(back))
        case ("act", str(user), int(back), str(action)):
            years.act(user, years.ago(back), action)
        case ("again", int(back)) if years.is_drafted(years.ago(back)):
            years.bill(years.ago(back))
        case ("account",):
            years.account("late")
        case ("move",):
            years.move("old", "new")
        case ("currency", str(user)):
            years.change_currency(user)


def must_be_as_if_on_time(years: Years) -> None:
    charged, used = years.charged(), years.used()
    for month in sorted({month for _, month in charged.keys() | used.keys()}):
        for users in (["paul"], ["anna"], ["late"], ["old", "new"]):
            due = 0
            for user in users:
                cents = used.get((user, month), 0)
                due += cents - min(PLANS[user], max(0, cents))
            ours = [charged[user, month] for user in users if (user, month) in charged]
            paid = sum(each.cents for each in ours)
            least = due - sum(each.forgiven_cents for each in ours)
            if len(users) == 1:
                # Whatever bill was given up, nobody is ahead by more than refunds came to.
                late_cents = sum(each.forgiven_late_cents for each in ours)
                least = max(least, min(due, years.lowest[users[0], month] - late_cents))
            most = due + sum(each.withheld_cents for each in ours)
            assert least <= paid <= most, (users, month, due, ours)


@settings(max_examples=10)
@given(life=LIVES)
def test_in_the_end_each_user_was_charged_as_if_everything_had_come_on_time(
    light_platform: SmallPlatform, life: list[list[tuple[object, ...]]]
) -> None:
    years = Years(light_platform, PLANS)
    for user in sorted(PLANS.keys() - {"late"}):
        years.account(user)
    for events in life:
        years.platform.calls(years.now, *((user, 400) for user in PLANS))
        for event in events:
            happen(years, event)
        years.bill(years.now)
        years.now = years.now.next()
        years.platform.calls(years.now.previous(), ("anna", 7))

    years.finish()

    must_be_as_if_on_time(years)
    assert [left for left in years.credits_left() if left[2] < 0 and left[0] not in years.moved] == []
