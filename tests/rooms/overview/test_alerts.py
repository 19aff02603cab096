"""What the overview says about alerts."""

import pytest

from skyloom.core.events import BudgetReached, Event
from skyloom.rooms.monitoring.model import AlertMissing
from skyloom.rooms.monitoring.ports import ALERTS
from skyloom.rooms.monitoring.rules import budget_alert
from skyloom.rooms.overview.explainers import count_alerts, explain_alert
from tests.rooms.monitoring.test_service import YOUNG, Place


def test_alert_is_explained_with_its_measure_its_history_and_what_to_do():
    place = Place()
    place.report(rows=300, kinds=YOUNG)
    (alert,) = place.alerts()
    place.acknowledge(alert.id)
    told = place.store.read(lambda view: explain_alert(view, alert.id, "p"))
    assert (told.noun, told.state, told.reason) == ("alert", "acknowledged", "drift")
    assert told.message.startswith("digits: 1 of 1 features differ from training beyond chance")
    assert "skyloom endpoint monitor digits" in told.next_action
    assert [what.what.split(" (")[0] for what in told.evidence] == ["new → firing", "firing → acknowledged"]
    with pytest.raises(AlertMissing):
        place.store.read(lambda view: explain_alert(view, alert.id, "q"))


def test_open_alerts_are_counted_in_the_projects_a_token_opens():
    place = Place()
    place.report(rows=300, kinds=YOUNG, errors=30)
    assert place.store.read(lambda view: count_alerts(view, "*")) == {"firing": 2}
    assert place.store.read(lambda view: count_alerts(view, "q")) == {}
    place.store.write(lambda tx: place.room.unwatch(tx, "endpoint_1"))
    assert place.store.read(lambda view: count_alerts(view, "p")) == {}


def test_alert_of_a_budget_names_it_once():
    place = Place()
    words = "The budget of project p reached 50%: 52% is used, $0.52 of $1.00."
    news = BudgetReached(budget="The budget of project p", threshold=0.5, share=0.52, message=words)
    alert = budget_alert("alert_b", Event(project="p", subject="budget_1", at=5.0, body=news), news)
    place.store.write(lambda tx: tx.insert(ALERTS, alert))
    assert place.store.read(lambda view: explain_alert(view, "alert_b", "p")).message == words
