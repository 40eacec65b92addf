"""Names of what a node keeps of its cluster's declarations, in a folder of the kvstore's state directory."""

DECLARED_DIR = "declared"
KEYS_FILE = "keys.toml"  # the gateway's, while a node follows declarations
RECORDS_FILE = "declarations.json"
GIVEN_FILE = "published.json"
JOINED_FILE = "joined"  # there once all of it has been in force in this life
DECLARED_FILES = (KEYS_FILE, RECORDS_FILE, GIVEN_FILE, JOINED_FILE)
