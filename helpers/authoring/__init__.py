"""For those who write the course: its index, its pictures, its measurements, its model. No notebook imports this."""
