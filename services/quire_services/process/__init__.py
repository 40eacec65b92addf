"""What every process of ours shares: flags, logs, standard streams, reasons for ending, calls of the kvstore."""
