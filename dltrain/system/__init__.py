"""The process and the machine it runs on: devices, signals, streams, logs, memory, what is installed."""
