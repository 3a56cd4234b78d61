"""What tradesweep is measured against: the same work in the libraries as they come."""
