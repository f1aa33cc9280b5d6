"""What a class needs: the classroom model that ships with the course, a mirror for downloads, one server for all."""
