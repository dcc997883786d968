"""What a run leaves for people: study folder, overlays, report."""
