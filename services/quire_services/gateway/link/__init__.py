"""Link: the engines that are connected to this gateway, as it sees each of them."""
