"""The Open Inference Protocol (KServe V2): REST and gRPC over the same data plane."""
