"""The camera player: pictures, videos and bags as a camera's topic."""
