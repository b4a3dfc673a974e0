"""Newton's method for fixed points that plain iterations approach slowly."""
