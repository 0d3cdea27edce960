from service_kit.migrations_env import run
from serving_svc.storage import Base

run(Base.metadata)
