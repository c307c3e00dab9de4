"""The worker: leases a ticket, proves itself to the gateway, and runs one task at a time in the sandbox."""
