"""The gateway: REST and the Open Inference Protocol in, gRPC and micro-batches out."""
