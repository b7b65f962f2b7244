"""Samples and frames, nothing learned: files, resampling, STFT, MDCT, mel, harmonic source, Griffin-Lim."""
