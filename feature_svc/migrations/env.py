from feature_svc.storage import Base
from service_kit.migrations_env import run

run(Base.metadata)
