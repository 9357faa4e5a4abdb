"""Source files become frames of raw rows, whatever their format, packing and damage."""
