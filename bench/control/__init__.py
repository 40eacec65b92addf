"""What the control plane costs: messages, CPU time and how both grow. Ids only, no model."""
