from service_kit.migrations_env import run
from tests.service_kit.sample_svc.storage import Base

run(Base.metadata)
