/**
 * Runs an exported file by a plan and writes what was measured: plain Java without Android.
 *
 * <p>A plan (JSON) goes in, one row as {@code bench.measurement} of compress-export has it comes out. {@link
 * compressexport.core.Main} is where to begin.
 */
package compressexport.core;
