package compressexport.core;

import java.io.File;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.json.JSONException;
import org.json.JSONObject;

/** Loads the file of a plan, runs it, and makes the row. */
public final class Bench {
    private Bench() {}

    /** A measurement, or "not measured" with the reason: no fault of a file or a runtime leaves this method. */
    public static JSONObject row(Plan plan) throws JSONException {
        try (Engine engine = checked(plan)) {
            Run run = measure(plan, engine);
            Parity parity = plan.golden == null ? null : Parity.of(run.answers, Files.floats(plan.golden));
            if (plan.answers != null) {
                Files.writeFloats(plan.answers, run.answers);
            }
            return Rows.measured(plan, run, parity);
        } catch (BenchException refusal) {
            return Rows.notMeasured(plan, refusal.getMessage());
        } catch (OutOfMemoryError full) {
            return Rows.notMeasured(
                    plan, plan.name + " does not fit: " + said(full) + "; close apps, or measure a smaller file");
        } catch (LinkageError broken) {
            return Rows.notMeasured(
                    plan, "the runtime for ." + plan.format + " files did not load: " + said(root(broken))
                            + "; take the build of the app for this phone");
        } catch (Exception failure) {
            return Rows.notMeasured(plan, plan.name + " cannot be run by " + plan.runtime + ": " + said(failure)
                    + "; export it again, or look whether the runtime is of the release that wrote it");
        }
    }

    private static Engine checked(Plan plan) throws BenchException, IOException {
        if (!plan.file.isFile()) {
            throw new BenchException("there is no file " + plan.file + "; push it, or pick another");
        }
        String found = Files.sha256(plan.file);
        if (!found.equals(plan.sha256)) {
            throw new BenchException(plan.name + " is not the file that the plan means: its sha256 is "
                    + found.substring(0, 12) + "..., and " + plan.sha256 + " was wanted; push it again");
        }
        if (plan.images.isEmpty()) {
            throw new BenchException(plan.name + " needs an image or more to run on; the plan names none");
        }
        return Engines.create(plan.format);
    }

    private static Run measure(Plan plan, Engine engine) throws Exception {
        List<FloatBuffer> images = new ArrayList<>();
        for (File image : plan.images) {
            images.add(image(plan, image));
        }
        Run run = new Run();
        run.cores = plan.cores == null ? null : Process.pin(plan.cores);
        // The runtime's own libraries come before the start, as in the other lanes.
        run.version = engine.version();
        Process.resetPeak();
        run.start = Process.memory();
        long begin = System.nanoTime();
        engine.load(plan.file, plan.inputShape, plan.schedule.threads);
        run.loadMs = Turns.since(begin);
        run.loaded = Process.memory();
        run.answers = new float[images.size()][];
        begin = System.nanoTime();
        run.answers[0] = engine.run(images.get(0));
        run.firstMs = Turns.since(begin);
        run.first = Process.memory();
        for (int place = 1; place < run.answers.length; place++) {
            run.answers[place] = engine.run(images.get(place));
        }
        time(plan.schedule, new Turns(engine, images), run);
        return run;
    }

    private static void time(Schedule schedule, Turns turns, Run run) throws Exception {
        if (schedule.warmupRuns > 0 || schedule.warmupSeconds > 0) {
            turns.repeat(schedule.warmupRuns, schedule.warmupSeconds, schedule.capSeconds);
        }
        run.mhzBefore = Process.megahertz();
        Long taken = Process.preemptions();
        run.samplesMs = turns.repeat(schedule.runs, schedule.seconds, schedule.capSeconds);
        Long after = Process.preemptions();
        // Threads that ended in between take their counts with them.
        run.preemptions = taken == null || after == null ? null : Math.max(0, after - taken);
        run.mhzAfter = Process.megahertz();
        run.end = Process.memory();
    }

    private static FloatBuffer image(Plan plan, File image) throws BenchException, IOException {
        if (!image.isFile() || image.length() != 4 * plan.imageSize()) {
            throw new BenchException(image.getName() + " holds " + image.length() + " bytes, and an image of "
                    + Arrays.toString(plan.inputShape) + " has " + 4 * plan.imageSize()
                    + "; pass images of the network's own size");
        }
        return Files.floats(image);
    }

    private static Throwable root(Throwable error) {
        return error.getCause() == null || error.getCause() == error ? error : root(error.getCause());
    }

    /** The first line of what an error says, with its kind. */
    private static String said(Throwable error) {
        String words = String.valueOf(error.getMessage()).split("\n", 2)[0];
        return error.getClass().getSimpleName() + ": " + words;
    }
}
