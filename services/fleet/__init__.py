"""The fleet controller: how many workers and orchestrators there are, and which pods may go."""
