"""The public gRPC service and the session code that every transport of the gateway stands on."""
