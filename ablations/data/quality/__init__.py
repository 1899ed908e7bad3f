"""What may be wrong with data: unreadable pictures, duplicates, leaks between the parts, unequal classes."""
