"""What every process stands on: settings, logs, errors, metrics, wire, serving and state."""
