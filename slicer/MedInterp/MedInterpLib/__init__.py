"""What the Slicer module does beside showing: commands, processes, study folders; standard library only."""
