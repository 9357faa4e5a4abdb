"""What is checked and told before an adapter is published."""
