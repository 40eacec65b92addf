"""What a supervisor says to a person: how a process ended, and what has been started."""
