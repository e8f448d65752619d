"""fbconv in other people's trainers: one plan, a callback for each of them, and their checkpoints."""
