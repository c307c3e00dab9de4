"""The gateway: reference monitor, policy, life cycle and log."""
