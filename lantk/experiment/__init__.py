"""The words of the study: configuration, cases, variants, records, provenance."""
