"""Cut out."""
