"""How each target's engine likes the operations of layers: one file per target."""
