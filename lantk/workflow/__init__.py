"""What only the workflow needs: lease, failures, progress, resources, files of code."""
