"""The store: what makes a run resumable and auditable. Ground floor: knows nothing of the steps."""
