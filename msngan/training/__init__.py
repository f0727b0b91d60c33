"""From a config to a trained run. Imports nothing: parts of the room need no torch."""
