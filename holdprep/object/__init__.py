"""Object poses and sparse point cloud from a video, by structure from motion."""
