"""The client: one attribute per noun, one method per operation."""

from skyloom.sdk.arrays import ArrayCalls
from skyloom.sdk.cost import BudgetCalls, CostCalls, PriceCalls
from skyloom.sdk.data import DataCalls
from skyloom.sdk.devices import DeviceCalls, RolloutCalls
from skyloom.sdk.feedback import FeedbackCalls
from skyloom.sdk.functions import FunctionCalls, InvocationCalls
from skyloom.sdk.jobs import JobCalls
from skyloom.sdk.overview import OverviewCalls
from skyloom.sdk.planning import PlanCalls
from skyloom.sdk.schedules import ScheduleCalls
from skyloom.sdk.scheduling import PoolCalls, QuotaCalls, SchedulingCalls
from skyloom.sdk.secrets import SecretCalls
from skyloom.sdk.services import ServiceCalls
from skyloom.sdk.serving import EndpointCalls, PredictionCalls
from skyloom.sdk.templates import TemplateCalls
from skyloom.sdk.tenancy import AuditCalls, ProjectCalls, TokenCalls
from skyloom.sdk.training import ModelCalls, RunCalls, TrainingCalls
from skyloom.sdk.transport import Transport
from skyloom.sdk.triggers import TriggerCalls
from skyloom.sdk.watching import AlertCalls, LineageCalls
from skyloom.sdk.webhooks import WebhookCalls


class Client:
    """A cloud, as seen from Python. Thread-safe. Close it, or use it in a ``with``."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.overview = OverviewCalls(transport)
        self.projects = ProjectCalls(transport)
        self.tokens = TokenCalls(transport)
        self.audit = AuditCalls(transport)
        self.jobs = JobCalls(transport)
        self.pools = PoolCalls(transport)
        self.scheduling = SchedulingCalls(transport)
        self.quotas = QuotaCalls(transport)
        self.arrays = ArrayCalls(transport)
        self.schedules = ScheduleCalls(transport)
        self.secrets = SecretCalls(transport)
        self.templates = TemplateCalls(transport)
        self.trainings = TrainingCalls(transport)
        self.runs = RunCalls(transport)
        self.plans = PlanCalls(transport)
        self.models = ModelCalls(transport)
        self.data = DataCalls(transport)
        self.costs = CostCalls(transport)
        self.prices = PriceCalls(transport)
        self.budgets = BudgetCalls(transport)
        self.webhooks = WebhookCalls(transport)
        self.alerts = AlertCalls(transport)
        self.endpoints = EndpointCalls(transport)
        self.services = ServiceCalls(transport, self.models, self.endpoints)
        self.functions = FunctionCalls(transport, self.services, self.endpoints)
        self.invocations = InvocationCalls(transport)
        self.triggers = TriggerCalls(transport)
        self.devices = DeviceCalls(transport)
        self.rollouts = RolloutCalls(transport)
        self.predictions = PredictionCalls(transport)
        self.feedback = FeedbackCalls(transport)
        self.lineage = LineageCalls(transport)

    @property
    def project(self) -> str:
        """The project that this client works in."""
        return self.transport.project

    def close(self) -> None:
        """Let go of connections."""
        self.endpoints.close()
        self.transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
