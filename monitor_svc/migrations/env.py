from monitor_svc.storage.tables import metadata
from service_kit.migrations_env import run

run(metadata)
