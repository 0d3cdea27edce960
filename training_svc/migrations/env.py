from service_kit.migrations_env import run
from training_svc.storage import Base

run(Base.metadata)
