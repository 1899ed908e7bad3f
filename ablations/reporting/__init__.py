"""Findings, tables, figures and pages from the results of a study."""
