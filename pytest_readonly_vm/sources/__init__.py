"""Where images come from: files that are packed, URLs, registries, names; and the store of what was brought here."""
