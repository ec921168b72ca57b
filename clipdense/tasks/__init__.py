"""What a method must answer, and what follows from the answer: windows, upsampling, background."""
