"""What only the workflow needs: its lease, and what to say of failures."""
