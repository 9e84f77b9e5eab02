package compressexport.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** What the kernel says of this process and this thread. Unknown is null, never a guess. */
final class Process {
    private static final File STATUS = new File("/proc/self/status");
    private static final File THREAD = new File("/proc/thread-self");
    private static final int STAT_CORE = 39;
    private static final long PIN_SECONDS = 10;

    private Process() {}

    /** Memory in kB now, as {@code bench.measurement.Memory} has it. */
    static JSONObject memory() throws JSONException {
        JSONObject found = new JSONObject();
        found.put("peak", kilobytes(STATUS, "VmHWM"));
        found.put("resident", kilobytes(STATUS, "VmRSS"));
        found.put("anonymous", kilobytes(STATUS, "RssAnon"));
        found.put("file", kilobytes(STATUS, "RssFile"));
        found.put("proportional", kilobytes(new File("/proc/self/smaps_rollup"), "Pss"));
        return found;
    }

    /** Lets VmHWM begin anew where the kernel allows it. */
    static void resetPeak() {
        try (FileOutputStream target = new FileOutputStream("/proc/self/clear_refs")) {
            target.write("5".getBytes(StandardCharsets.US_ASCII));
        } catch (IOException refused) {
            // then the peak includes what came before, and the figures show it: peak above resident at the start
        }
    }

    /** How often another process or thread took the core from a thread of this process; null where not told. */
    static Long preemptions() {
        File[] tasks = new File("/proc/self/task").listFiles();
        Long sum = null;
        for (File task : tasks == null ? new File[0] : tasks) {
            Matcher found = find(new File(task, "status"), "nonvoluntary_ctxt_switches:\\s+(\\d+)");
            if (found != null) {
                sum = (sum == null ? 0 : sum) + Long.parseLong(found.group(1));
            }
        }
        return sum;
    }

    /** The clock of the core that this thread runs on, in MHz. */
    static Double megahertz() {
        try {
            String stat = Files.text(new File(THREAD, "stat"));
            // The second field, the name, may hold spaces: count behind its bracket.
            String core = stat.substring(stat.lastIndexOf(')') + 2).trim().split(" ")[STAT_CORE - 3];
            String khz = Files.text(new File("/sys/devices/system/cpu/cpu" + core + "/cpufreq/scaling_cur_freq"));
            return Double.parseDouble(khz.trim()) / 1000;
        } catch (IOException | NumberFormatException | IndexOutOfBoundsException untold) {
            return null;
        }
    }

    /**
     * Lets this thread, and those that it starts from now on, run on the cores of the mask alone.
     *
     * <p>Java has no call for it; Android and Debian have the program {@code taskset}. The other threads (collector,
     * compiler, screen) stay where they are, so that they do not take the measured core.
     *
     * @return the cores, or null where the system did not allow it
     */
    static JSONArray pin(String mask) {
        try {
            String thread = THREAD.getCanonicalFile().getName();
            java.lang.Process taskset =
                    new ProcessBuilder("taskset", "-p", mask, thread).redirectErrorStream(true).start();
            taskset.getOutputStream().close();
            if (!taskset.waitFor(PIN_SECONDS, TimeUnit.SECONDS) || taskset.exitValue() != 0) {
                return null;
            }
        } catch (IOException refused) {
            return null;
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
            return null;
        }
        return allowed(mask);
    }

    /** The cores of the mask, if this thread may run on these and no others. */
    private static JSONArray allowed(String mask) {
        Matcher found = find(new File(THREAD, "status"), "Cpus_allowed:\\s+([0-9a-f,]+)");
        long wanted = Long.parseLong(mask, 16);
        if (found == null || Long.parseLong(found.group(1).replace(",", ""), 16) != wanted) {
            return null;
        }
        JSONArray cores = new JSONArray();
        for (int core = 0; core < Long.SIZE; core++) {
            if ((wanted >> core & 1) == 1) {
                cores.put(core);
            }
        }
        return cores;
    }

    private static Object kilobytes(File file, String name) {
        Matcher found = find(file, "(?m)^" + name + ":\\s+(\\d+) kB");
        return found == null ? JSONObject.NULL : (Object) Long.valueOf(found.group(1));
    }

    private static Matcher find(File file, String pattern) {
        try {
            Matcher found = Pattern.compile(pattern).matcher(Files.text(file));
            return found.find() ? found : null;
        } catch (IOException untold) {
            return null;
        }
    }
}
