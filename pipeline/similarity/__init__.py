"""Which sources of a catalogue look like a given one, and which look like no other."""
