"""The self-test at load: our paged forward pass against the model's own eager one."""
