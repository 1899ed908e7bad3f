"""What `ablations.report` is made of: claims, tables, figures, pages."""
