"""Light heads fitted on an embedding store, honestly evaluated."""
