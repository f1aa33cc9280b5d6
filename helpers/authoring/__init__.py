"""For those who write the course: its notebooks' index, its pictures, its measurements, its model. No notebook imports this."""
