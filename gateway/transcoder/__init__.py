"""REST to gRPC: routes, requests and answers made from the descriptors of the contracts."""
